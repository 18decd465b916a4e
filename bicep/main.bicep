// SPDX-License-Identifier: Apache-2.0
// The consumer's side of TrustBridge: one GPU machine from the provider's image or, with instanceCount > 1, a scale set of them
// behind a load balancer. bicep/README.md tells what each part is for. mainTemplate.json is generated from this file: see there.

@description('Region of all resources.')
param location string = resourceGroup().location

@description('First part of every resource\'s name.')
@minLength(3)
@maxLength(20)
param namePrefix string = 'trustbridge'

@description('Size of the virtual machines. A Standard_NCC size makes a confidential machine.')
@allowed([
  'Standard_NC24ads_A100_v4'
  'Standard_NC48ads_A100_v4'
  'Standard_NC96ads_A100_v4'
  'Standard_NC40ads_H100_v5'
  'Standard_NC80adis_H100_v5'
  'Standard_NCC40ads_H100_v5'
  'Standard_NC4as_T4_v3'
  'Standard_NC8as_T4_v3'
  'Standard_NC16as_T4_v3'
  'Standard_NC64as_T4_v3'
])
param vmSize string = 'Standard_NC24ads_A100_v4'

@description('How many machines. One is a plain virtual machine. Metering needs one submitter: with billingEnabled it is always one.')
@minValue(1)
@maxValue(16)
param instanceCount int = 1

@description('The contract, as the provider names it: A-Z a-z 0-9 _ and -. Empty: the one that this purchase makes.')
@maxLength(100)
param contractId string = ''

@description('The asset that the contract is about: A-Z a-z 0-9 _ and -.')
@minLength(1)
@maxLength(100)
param assetId string

@description('The provider\'s control plane, an https:// URL.')
@minLength(9)
param edcEndpoint string

@description('Public keys of the provider, RW..., with commas between: machines serve only what one of them signed. Empty: as the image says.')
@maxLength(1000)
param providerKey string = ''

@description('A cache of the encrypted model near the machines, an https:// URL, that they ask before the provider\'s storage. Empty: none.')
@maxLength(500)
param blobMirror string = ''

@description('Resource id of an image version in a gallery. Empty: the Marketplace image of the four parameters below.')
param imageId string = ''

@description('Marketplace image: publisher.')
param imagePublisher string = ''

@description('Marketplace image: offer.')
param imageOffer string = ''

@description('Marketplace image: plan of the offer, which may be hidden.')
param imagePlan string = ''

@description('Marketplace image: version.')
param imageVersion string = 'latest'

@description('Secure Boot: off only for an image whose GPU driver is not signed.')
param secureBoot bool = true

@description('The image is closed (tbpkg build --target vm-attested): no cloud-init, no agent, no login. Control plane, routes and provider keys are then the image\'s, and TLS comes from the two parameters below.')
param closedImage bool = false

@description('Closed image: certificate of the API with its chain, PEM. Empty: plain HTTP.')
@maxLength(32000)
param tlsCertificate string = ''

@description('Closed image: the certificate\'s private key, PEM.')
@maxLength(32000)
@secure()
param tlsPrivateKey string = ''

@description('Size of the system disk in GiB. Model files do not go there.')
@minValue(32)
@maxValue(1023)
param osDiskSizeGB int = 64

@description('Who may call the API: an address range such as 203.0.113.0/24, or a service tag.')
@minLength(1)
param apiSourcePrefix string = 'VirtualNetwork'

@description('A public address and a DNS name for the API; otherwise it has a private address only.')
param publicEndpoint bool = true

@description('Resource id of a subnet to use, which must have a way out to the Internet. Empty: a new network with a NAT gateway.')
param subnetId string = ''

@description('selfSigned: TLS with a key that each machine makes for itself. off: plain HTTP, for use behind one\'s own TLS gateway.')
@allowed([
  'selfSigned'
  'off'
])
param tlsMode string = 'selfSigned'

@description('Keys of the API, name:sha256 pairs with commas between them; the hash is that of the key, in hex. Empty: no key is asked.')
param apiKeys string = ''

@description('The one-time code that the provider gave for the machines of this contract. Empty: the contract asks for none.')
@maxLength(64)
@secure()
param enrolmentCode string = ''

@description('Forward the fine-tuning and adapter routes of the model server too, not only those of inference.')
param allowFineTuning bool = false

@description('How much the programs log.')
@allowed([
  'debug'
  'info'
  'warn'
  'error'
])
param logLevel string = 'info'

@description('Meter usage through the Marketplace.')
param billingEnabled bool = false

@description('Plan that usage is metered for.')
param billingPlanId string = ''

@description('Dimension that usage is metered in; several with commas.')
@minLength(1)
param billingDimension string = 'requests'

@description('The provider is in another tenant than the machine, as in a published Managed Application.')
param crossTenant bool = false

@description('Name of the administrator\'s account.')
@minLength(1)
@maxLength(32)
param adminUsername string = 'tbadmin'

@description('Public key of the administrator. Empty: nobody can log in.')
param sshPublicKey string = ''

@description('Who may use SSH: an address range. Empty: nobody.')
param sshSourcePrefix string = ''

@description('Stands in for the key that Azure asks for when there is none; nobody learns it, and SSH takes no passwords.')
@secure()
param adminPassword string = newGuid()

@description('Serial console and its log. Whoever reaches the console can try to change how the machine boots.')
param bootDiagnostics bool = false

@description('Tags of every resource, beside the three of TrustBridge.')
param tags object = {}

var scaled = (instanceCount > 1) && !billingEnabled
var confidential = startsWith(vmSize, 'Standard_NCC')
var login = !empty(sshPublicKey) && !closedImage
var newNetwork = empty(subnetId)
var tls = closedImage ? !empty(tlsCertificate) : (tlsMode == 'selfSigned')
var allTags = union(tags, {
  'trustbridge-component': 'appliance'
  'trustbridge-contract': empty(contractId) ? 'application' : contractId
  'trustbridge-asset': assetId
})

// A line break in a parameter must not become a setting of its own: ids and names lose every character that their rule does not
// allow (a good one stays as it is), the URL its line breaks. The daemons check all of them again.
var endpointUrl = replace(replace(edcEndpoint, '\n', ''), '\r', '')
var managedApp = contains(resourceGroup(), 'managedBy') ? resourceGroup().managedBy : ''
var inferenceRoutes = '/v1/models*,/v1/chat/*,/v1/completions*,/v1/responses*,/v1/messages*,/v1/embeddings,/v1/rerank,/v1/score,/v1/audio/*,/v1/images/*'
var environment = format('''

# Set by the deployment; what stands above is the image's.
TB_CONTRACT_ID={0}
TB_ASSET_ID={1}
TB_EDC_ENDPOINT={2}
TB_LOG_LEVEL={3}
TB_ROUTES={4}
{5}{6}{7}{8}{9}{10}''',
  empty(contractId) ? 'application' : uriComponent(contractId),
  uriComponent(assetId),
  endpointUrl,
  logLevel,
  allowFineTuning ? '/v1/*' : inferenceRoutes,
  tls ? 'TB_TLS_CERT=/run/credentials/tb-proxy.service/tls-cert\nTB_TLS_KEY=/run/credentials/tb-proxy.service/tls-key\n' : '',
  empty(apiKeys) ? '' : 'TB_API_KEYS=/run/credentials/tb-proxy.service/api-keys\n',
  empty(managedApp) ? '' : 'TB_BILLING_RESOURCE_ID=${managedApp}\n',
  billingEnabled ? 'TB_BILLING_ENABLED=true\nTB_BILLING_PLAN_ID=${uriComponent(billingPlanId)}\nTB_BILLING_DIMENSION=${replace(uriComponent(billingDimension), '%2C', ',')}\n' : '',
  empty(providerKey) ? '' : 'TB_PROVIDER_KEY=${replace(replace(providerKey, '\n', ''), '\r', '')}\n',
  empty(blobMirror) ? '' : 'TB_BLOB_MIRROR=${replace(replace(blobMirror, '\n', ''), '\r', '')}\n'
)

// As cloud-init/user-data.yaml, plus what only a cloud machine needs. {0} is the settings, {1} the API keys, {2} a flag, {3} the
// name in the certificate, {4} the enrolment code. The key of the certificate never leaves the machine.
var cloudConfig = '''
#cloud-config
ssh_pwauth: false
bootcmd:
- [cloud-init-per, instance, tb-tls, sh, -c, 'if $1; then umask 077; mkdir -p /etc/credstore; exec openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj /CN=trustbridge -addext "subjectAltName=DNS:$2" -keyout /etc/credstore/trustbridge.tls-key -out /etc/credstore/trustbridge.tls-cert; fi', sh, '{2}', '{3}']
write_files:
- path: /etc/trustbridge/trustbridge.env
  permissions: '0640'
  append: true
  encoding: b64
  content: {0}
- path: /etc/credstore/trustbridge.api-keys
  permissions: '0600'
  encoding: b64
  content: {1}
- path: /etc/credstore/trustbridge.enrolment-code
  permissions: '0600'
  encoding: b64
  content: {4}
'''
var enrolmentCodeFile = base64(format('{0}\n', enrolmentCode))
var apiKeyFile = base64(format('{0}\n', replace(apiKeys, ',', '\n')))
var tlsFlag = tls ? 'true' : 'false'

// What a closed image lets its deployment say (tb-provision(8)); it refuses the whole for one thing more. How usage is billed it says
// itself: billingEnabled only gives the machine the role that metering needs.
var closedSettings = union({
  TB_CONTRACT_ID: empty(contractId) ? 'application' : uriComponent(contractId)
  TB_ASSET_ID: uriComponent(assetId)
  TB_LOG_LEVEL: logLevel
}, empty(contractId) && !empty(managedApp) ? {
  TB_BILLING_RESOURCE_ID: managedApp
} : {})
var closedCredentials = union(empty(enrolmentCode) ? {} : {
  'enrolment-code': format('{0}\n', enrolmentCode)
}, empty(apiKeys) ? {} : {
  'api-keys': format('{0}\n', replace(apiKeys, ',', '\n'))
}, empty(tlsCertificate) ? {} : {
  'tls-cert': tlsCertificate
  'tls-key': tlsPrivateKey
})
var userData = closedImage ? base64(string({
  trustbridge: 1
  settings: closedSettings
  credentials: closedCredentials
})) : null

var plan = empty(imageId) ? {
  publisher: imagePublisher
  product: imageOffer
  name: imagePlan
} : null
var image = empty(imageId) ? {
  publisher: imagePublisher
  offer: imageOffer
  sku: imagePlan
  version: imageVersion
} : {
  id: imageId
}
var osDisk = {
  createOption: 'FromImage'
  caching: 'ReadWrite'
  diskSizeGB: osDiskSizeGB
  deleteOption: 'Delete'
  managedDisk: {
    storageAccountType: 'Premium_LRS'
    securityProfile: confidential ? {
      securityEncryptionType: 'DiskWithVMGuestState'
    } : null
  }
}
// For the state of a closed image (tb-state(8)), which takes the first disk that is empty, whatever its LUN, and makes a partition of at
// most 1 GiB there. It goes with the machine: the key is of the machine's TPM, and opens it nowhere else.
var dataDisks = closedImage ? [
  {
    lun: 0
    createOption: 'Empty'
    caching: 'None'
    diskSizeGB: 4
    deleteOption: 'Delete'
    managedDisk: {
      storageAccountType: 'Premium_LRS'
    }
  }
] : null
var securityProfile = {
  securityType: confidential ? 'ConfidentialVM' : 'TrustedLaunch'
  uefiSettings: {
    secureBootEnabled: secureBoot
    vTpmEnabled: true
  }
}
var linuxConfiguration = {
  disablePasswordAuthentication: login
  provisionVMAgent: !closedImage
  ssh: login ? {
    publicKeys: [
      {
        path: '/home/${adminUsername}/.ssh/authorized_keys'
        keyData: sshPublicKey
      }
    ]
  } : null
}

// Refuses what it does not allow, the network's own default rules included.
var inboundRules = [
  {
    name: 'AllowApi'
    properties: {
      description: 'The API, from where the consumer chose'
      priority: 100
      direction: 'Inbound'
      access: 'Allow'
      protocol: 'Tcp'
      sourceAddressPrefix: apiSourcePrefix
      sourcePortRange: '*'
      destinationAddressPrefix: '*'
      destinationPortRange: '8000'
    }
  }
  {
    name: 'AllowHealthProbe'
    properties: {
      description: 'Health and metrics, for the load balancer only'
      priority: 110
      direction: 'Inbound'
      access: 'Allow'
      protocol: 'Tcp'
      sourceAddressPrefix: 'AzureLoadBalancer'
      sourcePortRange: '*'
      destinationAddressPrefix: '*'
      destinationPortRange: '8001'
    }
  }
  {
    name: 'DenyRuntime'
    properties: {
      description: 'The model server is reached through the API only'
      priority: 200
      direction: 'Inbound'
      access: 'Deny'
      protocol: '*'
      sourceAddressPrefix: '*'
      sourcePortRange: '*'
      destinationAddressPrefix: '*'
      destinationPortRange: '8081'
    }
  }
  {
    name: 'DenyAll'
    properties: {
      description: 'Everything else'
      priority: 4096
      direction: 'Inbound'
      access: 'Deny'
      protocol: '*'
      sourceAddressPrefix: '*'
      sourcePortRange: '*'
      destinationAddressPrefix: '*'
      destinationPortRange: '*'
    }
  }
]
var sshRules = [
  {
    name: 'AllowSsh'
    properties: {
      description: 'The administrator'
      priority: 300
      direction: 'Inbound'
      access: 'Allow'
      protocol: 'Tcp'
      sourceAddressPrefix: sshSourcePrefix
      sourcePortRange: '*'
      destinationAddressPrefix: '*'
      destinationPortRange: '22'
    }
  }
]

resource securityGroup 'Microsoft.Network/networkSecurityGroups@2025-03-01' = {
  name: '${namePrefix}-nsg'
  location: location
  tags: allTags
  properties: {
    securityRules: (login && !empty(sshSourcePrefix)) ? concat(inboundRules, sshRules) : inboundRules
  }
}

// The one way out, whatever the way in: a single address that the provider may know.
resource outboundIp 'Microsoft.Network/publicIPAddresses@2025-03-01' = if (newNetwork) {
  name: '${namePrefix}-outbound-ip'
  location: location
  tags: allTags
  sku: {
    name: 'Standard'
  }
  properties: {
    publicIPAllocationMethod: 'Static'
  }
}

resource natGateway 'Microsoft.Network/natGateways@2025-03-01' = if (newNetwork) {
  name: '${namePrefix}-nat'
  location: location
  tags: allTags
  sku: {
    name: 'Standard'
  }
  properties: {
    publicIpAddresses: [
      {
        id: outboundIp.id
      }
    ]
  }
}

resource network 'Microsoft.Network/virtualNetworks@2025-03-01' = if (newNetwork) {
  name: '${namePrefix}-vnet'
  location: location
  tags: allTags
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.0.0.0/16'
      ]
    }
    subnets: [
      {
        name: 'appliance'
        properties: {
          addressPrefix: '10.0.0.0/24'
          defaultOutboundAccess: false
          natGateway: {
            id: natGateway.id
          }
          networkSecurityGroup: {
            id: securityGroup.id
          }
        }
      }
    ]
  }
}

var subnet = newNetwork ? resourceId('Microsoft.Network/virtualNetworks/subnets', network.name, 'appliance') : subnetId

resource endpointIp 'Microsoft.Network/publicIPAddresses@2025-03-01' = if (publicEndpoint) {
  name: '${namePrefix}-ip'
  location: location
  tags: allTags
  sku: {
    name: 'Standard'
  }
  properties: {
    publicIPAllocationMethod: 'Static'
    dnsSettings: {
      domainNameLabel: toLower('${namePrefix}-${uniqueString(resourceGroup().id)}')
    }
  }
}

resource loadBalancer 'Microsoft.Network/loadBalancers@2025-03-01' = if (scaled) {
  name: '${namePrefix}-lb'
  location: location
  tags: allTags
  sku: {
    name: 'Standard'
  }
  properties: {
    frontendIPConfigurations: [
      {
        name: 'api'
        properties: publicEndpoint ? {
          publicIPAddress: {
            id: endpointIp.id
          }
        } : {
          privateIPAllocationMethod: 'Dynamic'
          subnet: {
            id: subnet
          }
        }
      }
    ]
    backendAddressPools: [
      {
        name: 'appliances'
      }
    ]
    probes: [
      {
        name: 'health'
        properties: {
          protocol: 'Http'
          port: 8001
          requestPath: '/health'
          intervalInSeconds: 5
          probeThreshold: 2
        }
      }
    ]
    loadBalancingRules: [
      {
        name: 'api'
        properties: {
          protocol: 'Tcp'
          frontendPort: 8000
          backendPort: 8000
          idleTimeoutInMinutes: 30
          enableTcpReset: true
          disableOutboundSnat: true
          frontendIPConfiguration: {
            id: resourceId('Microsoft.Network/loadBalancers/frontendIPConfigurations', '${namePrefix}-lb', 'api')
          }
          backendAddressPool: {
            id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', '${namePrefix}-lb', 'appliances')
          }
          probe: {
            id: resourceId('Microsoft.Network/loadBalancers/probes', '${namePrefix}-lb', 'health')
          }
        }
      }
    ]
  }
}

resource networkInterface 'Microsoft.Network/networkInterfaces@2025-03-01' = if (!scaled) {
  name: '${namePrefix}-nic'
  location: location
  tags: allTags
  properties: {
    enableAcceleratedNetworking: !confidential
    networkSecurityGroup: {
      id: securityGroup.id
    }
    ipConfigurations: [
      {
        name: 'appliance'
        properties: {
          privateIPAllocationMethod: 'Dynamic'
          subnet: {
            id: subnet
          }
          publicIPAddress: publicEndpoint ? {
            id: endpointIp.id
          } : null
        }
      }
    ]
  }
}

resource machine 'Microsoft.Compute/virtualMachines@2025-04-01' = if (!scaled) {
  name: '${namePrefix}-vm'
  location: location
  tags: allTags
  plan: plan
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    hardwareProfile: {
      vmSize: vmSize
    }
    securityProfile: securityProfile
    storageProfile: {
      imageReference: image
      osDisk: osDisk
      dataDisks: dataDisks
    }
    osProfile: {
      computerName: '${namePrefix}-vm'
      adminUsername: adminUsername
      adminPassword: login ? null : adminPassword
      allowExtensionOperations: false
      linuxConfiguration: linuxConfiguration
      customData: closedImage ? null : base64(format(cloudConfig, base64(environment), apiKeyFile, tlsFlag, publicEndpoint ? endpointIp.properties.dnsSettings.fqdn : '${namePrefix}-vm', enrolmentCodeFile))
    }
    userData: userData
    networkProfile: {
      networkInterfaces: [
        {
          id: networkInterface.id
          properties: {
            deleteOption: 'Delete'
          }
        }
      ]
    }
    diagnosticsProfile: {
      bootDiagnostics: {
        enabled: bootDiagnostics
      }
    }
  }
}

resource machines 'Microsoft.Compute/virtualMachineScaleSets@2025-04-01' = if (scaled) {
  name: '${namePrefix}-vmss'
  location: location
  tags: allTags
  plan: plan
  sku: {
    name: vmSize
    tier: 'Standard'
    capacity: instanceCount
  }
  properties: {
    orchestrationMode: 'Flexible'
    platformFaultDomainCount: 1
    singlePlacementGroup: false
    virtualMachineProfile: {
      securityProfile: securityProfile
      storageProfile: {
        imageReference: image
        osDisk: osDisk
        dataDisks: dataDisks
      }
      osProfile: {
        computerNamePrefix: '${namePrefix}-'
        adminUsername: adminUsername
        adminPassword: login ? null : adminPassword
        allowExtensionOperations: false
        linuxConfiguration: linuxConfiguration
        customData: closedImage ? null : base64(format(cloudConfig, base64(environment), apiKeyFile, tlsFlag, publicEndpoint ? endpointIp.properties.dnsSettings.fqdn : '${namePrefix}-lb', enrolmentCodeFile))
      }
      userData: userData
      networkProfile: {
        networkApiVersion: '2020-11-01'
        networkInterfaceConfigurations: [
          {
            name: '${namePrefix}-nic'
            properties: {
              primary: true
              enableAcceleratedNetworking: !confidential
              deleteOption: 'Delete'
              networkSecurityGroup: {
                id: securityGroup.id
              }
              ipConfigurations: [
                {
                  name: 'appliance'
                  properties: {
                    primary: true
                    subnet: {
                      id: subnet
                    }
                    loadBalancerBackendAddressPools: [
                      {
                        id: resourceId('Microsoft.Network/loadBalancers/backendAddressPools', loadBalancer.name, 'appliances')
                      }
                    ]
                  }
                }
              ]
            }
          }
        ]
      }
      diagnosticsProfile: {
        bootDiagnostics: {
          enabled: bootDiagnostics
        }
      }
    }
  }
}

// Metering asks the resource group which Managed Application it belongs to: Reader on it, and nothing else.
resource reader 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (billingEnabled) {
  name: guid(resourceGroup().id, machine.id, 'Reader')
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'acdd72a7-3385-48ef-bd42-f606fba81ae7')
    principalId: machine.identity.principalId
    principalType: 'ServicePrincipal'
    delegatedManagedIdentityResourceId: crossTenant ? machine.id : null
  }
}

@description('Where the API answers.')
output endpoint string = '${tls ? 'https' : 'http'}://${publicEndpoint ? endpointIp.properties.dnsSettings.fqdn : (scaled ? loadBalancer.properties.frontendIPConfigurations[0].properties.privateIPAddress : (networkInterface.properties.ipConfigurations[0].properties.privateIPAddress))}:8000'

@description('Address that the provider\'s services see.')
output outboundAddress string = newNetwork ? outboundIp.properties.ipAddress : ''

@description('Identity of the machine; empty for a scale set, which has none.')
output principalId string = scaled ? '' : (machine.identity.principalId)

@description('The machine, or the scale set that names its machines itself.')
output vmNames array = scaled ? [machines.name] : [machine.name]
